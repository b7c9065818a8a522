"""Between the workers and the engine's process: raw rows one way, raw floats the other, nothing pickled."""
