"""Types that the parts of AgentSAM share."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
"""Token ids: one dimension, C-contiguous."""

Source = Literal["own", "history", "outputs", "similar"]
"""Where a drafted token came from: this session, the text of finished sessions, what the model wrote in any session, the
few sessions that resemble this one."""
