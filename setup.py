"""What pyproject.toml cannot say: a wheel has the folder ``configs/`` inside the package, as ``pvt_jax/configs``."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["pvt_jax", "pvt_jax.*"]), "pvt_jax.configs"],
    package_dir={"pvt_jax.configs": "configs"},
)
