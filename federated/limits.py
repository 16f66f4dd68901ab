"""What a hospital's NVFlare does not do, whatever the server says.

NVFlare 2.9.0 checks the hospital's `local/authorization.json` only if the server's message asks for the check, and
believes the role that a message states: `super` may do everything. Somebody who changed the server's program could so
read files of the kit, or send code. These limits hold for them too.
"""

from typing import Any

from nvflare.apis.app_validation import AppValidationKey
from nvflare.private.defs import TrainingTopic
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors
from nvflare.private.fed.utils.app_authz import AppAuthzService

NEEDED = {  # start, stop and ask about jobs; not the shell, files, logs, environment or restart
    TrainingTopic.DEPLOY,
    TrainingTopic.START_JOB,
    TrainingTopic.ABORT,
    TrainingTopic.ABORT_TASK,
    TrainingTopic.CHECK_STATUS,
    TrainingTopic.CHECK_RESOURCE,
    TrainingTopic.CANCEL_RESOURCE,
    TrainingTopic.NOTIFY_JOB_STATUS,
}


def limit_client() -> None:
    """Keep the requests that training needs, and refuse jobs with code. Call it before NVFlare's client starts."""
    found = ClientRequestProcessors.request_processors
    found[:] = [processor for processor in found if NEEDED.issuperset(processor.get_topics())]
    AppAuthzService.authorize_app_info = staticmethod(without_code)


def without_code(app_info: dict[str, Any], *submitter: object, **rest: object) -> tuple[bool, str]:
    """Stands in for NVFlare's check of a job, and refuses code from everybody."""
    return (False, "BYOC not permitted") if app_info.get(AppValidationKey.BYOC) else (True, "")
