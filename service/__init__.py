"""Serves bundles over HTTP: Flask in front, one engine behind."""
