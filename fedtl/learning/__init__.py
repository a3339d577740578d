"""The arithmetic of learning on arrays; knows nothing of parties, messages or estimators."""
