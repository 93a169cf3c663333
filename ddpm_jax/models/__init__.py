"""Networks: the U-Net, the heads, Inception, and other projects' weights."""
