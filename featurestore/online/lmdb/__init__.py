"""The online store on LMDB."""
