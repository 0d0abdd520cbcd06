"""One thread in every test: results do not depend on the machine, and parallel test runs do not fight."""

import torch

torch.set_num_threads(1)
