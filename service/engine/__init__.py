"""The engine: sessions, batches and the life cycle of models. It knows no HTTP."""
