"""The Open Inference Protocol V2 over REST, with the binary tensor and classification extensions."""
