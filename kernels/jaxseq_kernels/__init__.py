"""Pallas kernels for TPU and GPU, a folder for each op of `jaxseq`.

A folder has six files: `reference` is the recurrence in the kernel's layout, the oracle
of its tests; `pallas_tpu` and `pallas_gpu` each hold a `forward`; `vjp` makes it
differentiable; `dispatch` has the two names that leave the folder, `fused` and
`refusal`; `__init__` passes them on. `channel_delta_rule` has the kernels of `dplr`,
whose chunks are made in a file of their own, `pallas_gpu_chunks`. `recurrent_cells` has
those of `lstm`, `slstm` and `gru`, for TPU only, and its `cells`. What several share is
in `hopper` and the modules whose names begin so, within their kernels, and in
`matrix_states`, around them. Nothing here imports anything but JAX.
"""
