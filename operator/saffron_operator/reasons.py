"""Every reason that a condition or an event of ours can have, with what it means.

What a Job reports has its own list, `saffron_api.failures`; its reasons appear in conditions unchanged. Each message
that goes with a reason of the second and third group says what to do.
"""

from saffron_api import prediction

# --- Something goes on -------------------------------------------------------------------------------------------

INSPECTING = "Inspecting"
"""The model's folder is checked and its digest computed."""
SAMPLING = "Sampling"
"""The three sets of conversations are drawn."""
QUANTIZING = "Quantizing"
"""At least one candidate has no verdict yet."""
CANARY_STARTING = "CanaryStarting"
"""The canary's pods of this step are not all ready yet."""
CANARY_PAUSED = "CanaryPaused"
"""The canary serves its share until the step's pause is over."""
PROMOTING = "Promoting"
"""The target's own pods are replaced by pods with the checkpoint."""
REMOVING_CANARY = "RemovingCanary"
"""The target serves the checkpoint; the canary's pods end."""
UNDOING = "Undoing"
"""A checkpoint was rejected; the target goes back to what it served before."""
TARGET_NOT_READY = "TargetNotReady"
"""The target has no ready pod, so there is nothing to compare a canary with, or has none on purpose."""

# --- Something is waited for, or is as asked for -----------------------------------------------------------------

AWAITING_APPROVAL = "AwaitingApproval"
"""The step needs a person's word."""
TARGET_PAUSED = "TargetPaused"
"""The target's owner paused its roll-outs, and with them the promotion."""
CHECKPOINT_READY = "CheckpointReady"
"""A checkpoint is selected, and the spec has no rollout."""
PROMOTED = "Promoted"
"""The target serves the selected checkpoint."""
SUSPENDED = "Suspended"
"""spec.suspend: nothing is begun, changed or taken back."""
TARGET_DRIFT = "TargetDrift"
"""Somebody took the promoted checkpoint off the target."""
NO_DRIFT = "NoDrift"
"""The target serves what was promoted."""
NOT_WATCHED = "NotWatched"
"""Nothing measures the served model's quality."""

# --- Nothing can go on without a person --------------------------------------------------------------------------

SPEC_INVALID = "SpecInvalid"
"""The spec can't be read."""
TARGET_NOT_FOUND = "TargetNotFound"
"""There is no Deployment of the name in spec.rollout.targetRef."""
TARGET_UNSUPPORTED = "TargetUnsupported"
"""The target is built in a way that Saffron can't work with."""
TARGET_CONFLICT = "TargetConflict"
"""Somebody else holds a field of the target that Saffron needs."""
TARGET_CLAIMED = "TargetClaimed"
"""An older QuantizedModel has the same target."""
NAME_TAKEN = "NameTaken"
"""An object that is not ours has the name that ours would have."""
REFUSED = "Refused"
"""The API server does not take a Job, a canary or a change of the target, or does not show what is to be read; it is
tried again."""
IMAGE_UNAVAILABLE = "ImageUnavailable"
"""A Job's image could not be pulled in time."""
POD_NOT_STARTED = "PodNotStarted"
"""A Job's pod could not be started in time, for another reason than its image."""
JOB_FAILED = "JobFailed"
"""A Job failed and left no message."""
RESULT_UNREADABLE = "ResultUnreadable"
"""A Job completed several times and left no message that can be read."""
NO_CANDIDATE_PASSED = "NoCandidatePassed"
"""Every candidate has a verdict, and none is Pass."""
INCONCLUSIVE = "Inconclusive"
"""No candidate passed, and for at least one the data did not suffice to say."""
CANARY_NOT_READY = "CanaryNotReady"
"""The canary's pods were not ready in time; the canary was removed."""
PROMOTION_FAILED = "PromotionFailed"
"""The target's pods with the checkpoint were not ready in time; the checkpoint was taken off it."""
ABORTED = "Aborted"
"""A person ended the run."""

# --- Of a candidate, a milestone or an event only ----------------------------------------------------------------

ENGINE_UNSUPPORTED = "EngineUnsupported"
"""The target's engine can't run the scheme on this hardware, or its cards can't share the candidate's linears."""
ENGINE_INEXACT = "EngineInexact"
"""The target's engine computes something else than what was measured."""
TOO_LARGE = prediction.TOO_LARGE
"""The checkpoint's size, known from shapes, misses its gate: no Job is worth it."""
NOT_YET = "NotYet"
"""A milestone that is not reached."""
DONE = "Done"
"""A milestone that is reached."""
RUN_STARTED = "RunStarted"
"""A new run began."""
STEP_STARTED = "StepStarted"
"""The canary of a step is ready and takes its share of the requests."""
WEIGHT_GAP = "WeightGap"
"""The share that whole pods can give is more than 5 points off the one asked for."""
TARGET_WARNING = "TargetWarning"
"""Something of the target may make requests fail during the roll-out, or will keep it from beginning."""
