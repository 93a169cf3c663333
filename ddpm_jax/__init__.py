"""DDPM in JAX, with every choice of the reverse-process variance.

Read in this order. These nine have the article:

    schedule    how much noise at each time
    gaussian    normal distributions: sample, divergence, likelihood
    predict     what a denoiser says: eps, x_0, v or mu
    process     the article's identities for any s < t, and the steps of a chain
    reverse     what a choice of the reverse variance consists of
    heads       the choices that are trained and look at x_t
    variance    all choices by name, those that are fixed before sampling among them
    objective   the losses
    sampler     one step per method, one loop

and these put it to work:

    trajectory  which times a short chain visits
    basis       pixels, and frequencies along colour axes
    worlds      data whose best denoiser is known; mixture and finite_set hold their mathematics
    unet        the network
    frozen      heads of their own on a denoiser that stays as it is
    time_sampler  how training draws its times
    recipes     what a training step is made of, and the state it changes
    optimizer   optax by name
    train       one training step
    parallel    one device's work on many devices
    processes   many processes as one run
    data        images by name; parts, records, framing, prepared and image_files read them
    feed        images as a function of the step
    cells       results on disk, under the hash of what they depend on
    checkpoint  save and restore; manifest and storage: what can be wrong with it
    subject     a denoiser with its schedule and images, the user's own too
    config      plain values, JSON both ways; agreement: with what is there
    run         a config's names become things
    pace        when something is due
    guard       one trainer a workdir, finite numbers
    journal     what a run says of itself; places: where its checkpoints lie; preview: samples while it trains
    sources     trained networks and the user's own as subjects
    loop        the training loop
    head_run    the training of heads
    eval        moments, likelihood, Frechet distance; a whole study; exact chains
    report      the page an ablation leaves behind

Import the modules; the package itself exports nothing.
"""

__version__ = "0.1.0"
