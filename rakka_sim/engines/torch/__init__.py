"""The live engine in PyTorch: real tensors on CPU or CUDA. Nothing above `engines` may import this without need."""
