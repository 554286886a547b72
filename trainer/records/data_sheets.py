"""Peak rates of chips by their makers' data sheets, in one table for MFU and for plans."""

# Dense bf16 products with f32 sums, FLOP/s of one JAX device, by the beginning of `device_kind`; the first
# prefix that fits counts. TPU v2 and v3 show each core as a device, TPU7x each of a chip's two dies.
PEAK_BF16 = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "TPU7x": 1153.5e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA GB200": 2500e12,
    "NVIDIA L4 ": 121e12,
    "NVIDIA L40S": 362e12,
}
