"""Base models: the loading gate, the architectures, where methods attach, and the classification heads."""
