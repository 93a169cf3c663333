"""DDPM in JAX, with every choice of the reverse-process variance.

Eight rooms, and imports that go one way:

    diffusion   the article: pure functions of arrays
    data        image data sets, by name and by step
    runtime     devices, processes, results on disk, compiled programs
    models      networks, and other projects' weights
    training    runs, checkpoints, trained networks read back
    evaluation  moments, likelihood, samples, distances, whole ablations
    report      the page an ablation leaves behind
    cli         the commands

Read diffusion/ in this order and you have read the article: schedules, gaussian, denoiser, process, variances, losses,
sampler.
"""

__version__ = "0.1.0"
