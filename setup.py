"""Installs beside an existing TensorFlow without replacing it; everything else is in setup.cfg.

Every tf_keras release pins one minor version of TensorFlow, and pip takes the newest tf_keras
first, so an extra that asks for tf_keras moves TensorFlow to the newest minor version. A build from
source can see the environment it is built for: TensorFlow and tf_keras are narrowed to the
TensorFlow that is there. A wheel can't: tf_keras is in no extra but `test`, and who needs it is
told the command.
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


def static():
    """What setup.cfg requires, and its extras, as lists of lines."""
    config = configparser.ConfigParser()
    config.read(Path(__file__).with_name("setup.cfg"), encoding="utf-8")
    extras = config["options.extras_require"]
    lines = config["options"]["install_requires"].strip().split("\n")
    return lines, {name: extras[name].split() for name in extras}


def requirements(version):
    """setup.cfg's requirements and extras, TensorFlow and tf_keras held at `version`'s minor."""
    lines, extras = static()
    if version is None:
        return lines, extras
    minor = ".".join(version.split(".")[:2])
    if minor not in SUPPORTED:
        raise SystemExit(
            f"keras_distill needs TensorFlow {SUPPORTED[0]} to {SUPPORTED[-1]}, and TensorFlow "
            f"{version} is installed here; an installation never replaces it. Change it "
            f'yourself (pip install "tensorflow=={SUPPORTED[-1]}.*") or use a fresh virtual '
            f"environment."
        )

    def held(wanted):
        names = [line.partition(">")[0] for line in wanted]
        return [
            f"{name}=={minor}.*" if name in ("tensorflow", "tf_keras") else line
            for name, line in zip(names, wanted, strict=True)
        ]

    return held(lines), {name: held(wanted) for name, wanted in extras.items()}


if __name__ == "__main__":
    install, extras = requirements(installed_tensorflow(folders()))
    setup(install_requires=install, extras_require=extras)
