"""What all tests share: nothing reports home, neither from this process nor from those that it starts."""

from voxspool.settings import forbid_telemetry

forbid_telemetry()
