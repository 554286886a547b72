"""Peak FLOP/s of chips from their makers' data sheets, for MFU and for plans."""

# Prefix of `device_kind` -> FLOP/s of one JAX device: dense bf16 products, accumulated in f32. The first
# prefix that matches counts, so a longer one stands before its own prefix ("TPU v5 lite" before "TPU v5"). On
# TPU v2 and v3 each core is a device, on TPU7x each of a chip's two dies.
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
