"""The demo on real data: its project, its data, and the proof that training and serving agree."""
