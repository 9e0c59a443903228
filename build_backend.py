"""The PEP 517 backend: setuptools, building against the torch that the package will run with.

An isolated build sees only what [build-system] requires, and torch is not in it: a torch fetched for the build
would not be the installed one, and an extension compiled against another torch fails to load. So the packages
of the environment that is installed into are put at the end of the path. Where that has no torch, setup.py
builds the package without its extension.
"""

import site
import sys
import sysconfig

from setuptools.build_meta import *  # noqa: F403


def installed_packages() -> list[str]:
    """Where the interpreter keeps its packages, whether or not an isolated build can see them."""
    paths = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    if sys.prefix == sys.base_prefix:
        paths.append(site.getusersitepackages())
    return list(dict.fromkeys(paths))


sys.path.extend(path for path in installed_packages() if path not in sys.path)
