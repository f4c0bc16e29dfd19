"""What is computed once and read many times: frozen features and decoded frames, whole or not at all."""
