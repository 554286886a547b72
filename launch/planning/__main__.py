"""`python -m launch.planning`: the calibration table, predicted next to published MFU."""

from launch.planning.environment import quiet_environment

quiet_environment()  # before the imports below import jax

from launch.planning.calibrate import predict, table  # noqa: E402
from launch.planning.published import published  # noqa: E402

if __name__ == "__main__":
    print("\n".join(table([predict(row) for row in published()])))
