"""What is done to a run before it is closed: the laws are applied to it and kept beside the measurements."""

from dynascope.diagnosis.accounts import predict_run
from dynascope.diagnosis.rest import equilibria
from dynascope.runs import RunWriter, load


def store_predictions(writer: RunWriter) -> None:
    """Apply the laws of charges to a run that is still open, and write them into it.

    Args:
        writer: the run's archive, every record written.
    """
    writer.flush()
    run = load(writer.path)
    predict_run(run).store(writer)
    writer.update(equilibrium=equilibria(run))
