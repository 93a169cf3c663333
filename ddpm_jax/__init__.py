"""DDPM in JAX, with every choice of the reverse-process variance.

Read in this order. These six have the article:

    schedule    how much noise at each time
    gaussian    normal distributions: sample, divergence, likelihood
    process     the identities between x_0, x_t and eps for any s < t
    variance    every choice of the reverse variance
    objective   the losses
    sampler     one step per method, one loop

and these put it to work:

    trajectory  which times a short chain visits
    worlds      data whose best denoiser is known
    unet        the network
    train       one training step
    parallel    one step on many devices
    data        images as a function of the step
    checkpoint  save and restore
    config      plain values, JSON both ways
    loop        the wiring
    eval        moments, likelihood, FID
    report      the page an ablation leaves behind

Import the modules; the package itself exports nothing.
"""

__version__ = "0.1.0"
