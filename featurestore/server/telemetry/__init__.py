"""Telemetry: metrics, traces, audit and feature logs."""
