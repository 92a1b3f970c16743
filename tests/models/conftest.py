"""Settings of torch for all tests of the learning room."""

import torch

# The cores are shared with whatever else runs; torch's threads would spin on them.
torch.set_num_threads(1)
