"""The HTTP surface: one blueprint a file. Each parses, asks the engine, and renders."""
