"""Installs beside an existing TensorFlow without replacing it; everything else is in setup.cfg.

Every tf_keras release pins one minor version of TensorFlow, and pip takes the newest tf_keras
first, so a static requirement moves TensorFlow to the newest minor version. A build can see the
environment it is built for: both requirements are narrowed to the TensorFlow that is there.
"""

import configparser
import importlib.metadata
import site
import sys
import sysconfig
from pathlib import Path

from setuptools import setup

SUPPORTED = ("2.19", "2.20", "2.21")


def folders():
    """Where the environment that pip installs into keeps its packages."""
    # An isolated build hides these from sys.path, and still runs the same interpreter.
    found = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    found += site.getsitepackages()
    if sys.prefix == sys.base_prefix:
        found.append(site.getusersitepackages())
    return found


def installed_tensorflow(paths):
    """The version of TensorFlow in these folders, or None."""
    found = importlib.metadata.distributions(name="tensorflow", path=list(paths))
    return next((distribution.version for distribution in found), None)


def requirements(version):
    """setup.cfg's requirements, with TensorFlow and tf_keras held at `version`'s minor."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(Path(__file__).with_name("setup.cfg"), encoding="utf-8")
    static = config["options"]["install_requires"].strip().split("\n")
    if version is None:
        return static
    minor = ".".join(version.split(".")[:2])
    if minor not in SUPPORTED:
        raise SystemExit(
            f"keras_distill needs TensorFlow {SUPPORTED[0]} to {SUPPORTED[-1]}, and TensorFlow "
            f"{version} is installed here; an installation never replaces it. Change it "
            f'yourself (pip install "tensorflow=={SUPPORTED[-1]}.*") or use a fresh virtual '
            f"environment."
        )
    held = [f"tensorflow=={minor}.*", f"tf_keras=={minor}.*"]
    return held + [line for line in static if not line.startswith(("tensorflow>", "tf_keras>"))]


if __name__ == "__main__":
    setup(install_requires=requirements(installed_tensorflow(folders())))
