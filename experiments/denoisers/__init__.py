"""Networks from outside, for --denoiser: each is a callable (x_t, t) -> what it predicts."""
