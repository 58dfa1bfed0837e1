"""GPUs as XLA's compiler wants them described: a GpuTargetConfigProto in text form.

The numbers are those of NVIDIA's data sheets and of the CUDA programming guide's table of compute capabilities, with
memory and clocks as OpenXLA's specs in ``xla/backends/gpu/target_config/specs`` have them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
      name: as jax has it in ``device_kind``.
      capability: compute capability, a whole number of Ampere and Hopper.
      cores: streaming multiprocessors.
      lanes: of float32 in each.
      shared: bytes of shared memory of a multiprocessor; a block may have 1 KiB less of it.
      cache: bytes of the L2 cache.
      clock: GHz.
      memory: bytes.
      bandwidth: bytes per second.
      links: of NVLink.
    """

    name: str
    capability: int
    cores: int
    lanes: int
    shared: int
    cache: int
    clock: float
    memory: int
    bandwidth: int
    links: int


GPUS = {
    "a100": Gpu("NVIDIA A100-SXM4-80GB", 8, 108, 64, 164, 40, 1.41, 85_100_068_864, 2_039_040_000_000, 12),
    "h100": Gpu("NVIDIA H100 80GB HBM3", 9, 132, 128, 228, 50, 1.98, 84_942_979_072, 3_352_320_000_000, 18),
    "h200": Gpu("NVIDIA H200", 9, 132, 128, 228, 50, 1.98, 151_397_597_184, 4_800_000_000_000, 18),
}


def target_config(gpu: Gpu) -> str:
    """The text that ``jax.experimental.topologies`` takes as ``target_config``."""
    # Instructions that only this generation has, as those of Hopper's tensor cores.
    features = "ACCELERATED_FEATURES" if gpu.capability >= 9 else "NONE"
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {gpu.capability} feature_extension: {features} }}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.lanes}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: {gpu.shared << 10}
  shared_memory_per_block: {48 << 10}
  shared_memory_per_block_optin: {gpu.shared - 1 << 10}
  l2_cache_size: {gpu.cache << 20}
  clock_rate_ghz: {gpu.clock}
  device_memory_size: {gpu.memory}
  memory_bandwidth: {gpu.bandwidth}
  device_interconnect_info {{ active_links: {gpu.links} }}
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  driver_version: "13.0.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{gpu.name}"
"""
