"""DDPM in JAX, with every choice of the reverse-process variance.

Read in this order. These seven have the article:

    schedule    how much noise at each time
    gaussian    normal distributions: sample, divergence, likelihood
    predict     what a denoiser says: eps, x_0 or v
    process     the article's identities for any s < t, and the steps of a chain
    variance    every choice of the reverse variance
    objective   the losses
    sampler     one step per method, one loop

and these put it to work:

    trajectory  which times a short chain visits
    worlds      data whose best denoiser is known
    unet        the network
    train       one training step
    parallel    one device's work on many devices
    data        images as a function of the step
    cells       results on disk, under the hash of what they depend on
    checkpoint  save and restore
    subject     a denoiser with its schedule and images, the user's own too
    config      plain values, JSON both ways
    run         a config's names become things
    loop        the training loop
    eval        moments, likelihood, Frechet distance; a whole study
    report      the page an ablation leaves behind

Import the modules; the package itself exports nothing.
"""

__version__ = "0.1.0"
