"""How the packages of an extra are installed, whatever keras_distill itself was installed from."""

import importlib.metadata

__all__ = ["install_hint", "legacy_hint"]


def install_hint(extra: str) -> str:
    """The command that installs what an extra asks for.

    It names the packages themselves, which are on the index. keras_distill may have come from a
    checkout, from Git or as a wheel, and is left as it is.

    Args:
      extra: one of setup.cfg's, such as "demo".

    >>> install_hint("ray")
    'pip install "ray[data]>=2.40"'
    """
    try:
        requirements = importlib.metadata.requires("keras_distill") or []
    except importlib.metadata.PackageNotFoundError:
        # Imported from a checkout that nobody has installed.
        return f'pip install -e ".[{extra}]" (in the checkout of keras_distill)'
    pairs = [line.partition(";")[::2] for line in requirements]
    wanted = [f'"{needed.strip()}"' for needed, marker in pairs if f'"{extra}"' in marker]
    return " ".join(["pip install", *wanted])


def legacy_hint(tensorflow: str) -> str:
    """The command that installs tf_keras and TFMOT, and leaves TensorFlow as it is.

    Every release of tf_keras pins one minor version of TensorFlow: pip would move it to the newest.

    Args:
      tensorflow: the version of TensorFlow that is installed.

    >>> legacy_hint("2.19.1")
    'pip install "tf_keras==2.19.*" "tensorflow-model-optimization>=0.8.0"'
    """
    minor = ".".join(tensorflow.split(".")[:2])
    return f'pip install "tf_keras=={minor}.*" "tensorflow-model-optimization>=0.8.0"'
