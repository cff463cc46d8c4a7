"""Start-up check that the Hugging Face library `kernels` is not installed.

It has the same name as this package.
"""

from importlib import metadata

DISTRIBUTION = "kernels"


class KernelsNameError(RuntimeError):
    """The distribution `kernels` is installed, so one package would shadow the other."""


def check_environment() -> None:
    """Raise KernelsNameError if `import kernels` may import another library.

    Reads package metadata only.
    transformers looks for the distribution `kernels`. If it is installed, transformers calls its functions but would
    import this package.
    """
    try:
        version = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return
    raise KernelsNameError(
        f"The Python package '{DISTRIBUTION}' {version} (Hugging Face's kernel hub) is installed in this environment. "
        "ABQ Explorer has a package of the same name, and transformers would confuse the two. "
        f"Use a separate virtual environment, or run: pip uninstall {DISTRIBUTION}"
    )
