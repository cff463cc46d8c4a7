"""The start-up check that this package is not mixed up with the Hugging Face library that is also called `kernels`."""

from importlib import metadata

DISTRIBUTION = "kernels"


class KernelsNameError(RuntimeError):
    """The distribution `kernels` is installed, so that one of the two packages would hide the other."""


def check_environment() -> None:
    """Refuse an environment in which `import kernels` may mean something else. Reads package metadata only.

    transformers looks for the distribution `kernels`; where it is installed, transformers would call its functions and
    get ours. Raises KernelsNameError.
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
