"""Keys in AWS Secrets Manager: put there for a launch, read by its daemons, and removed."""

from __future__ import annotations

from mirai._errors import LaunchError
from mirai.launchers._aws import Service, service

SERVICE = "secretsmanager"


def name_of(launch: str) -> str:
    """Return what the secret of a launch is called."""
    return f"mirai/{launch}"


def read(id: str) -> str:
    """Return a secret, by its name or ARN.  Raises LaunchError.

    The region, the endpoint and the credentials are what boto3 finds where this runs; an ARN
    names its region.
    """
    region = id.split(":")[3] if id.startswith("arn:") and id.count(":") >= 6 else None
    with service(SERVICE, region or None) as secrets:
        return str(secrets.ask("get_secret_value", SecretId=id)["SecretString"])


def write(secrets: Service, launch: str, keys: str) -> None:
    """Put the keys of a launch there.  Raises LaunchError."""
    about = "What daemons of mirai prove to join their pool. It is removed with the launch."
    secrets.ask(
        "create_secret", secret=keys, Name=name_of(launch), Description=about, SecretString=keys
    )


def remove(secrets: Service, launch: str) -> None:
    """Remove the keys of a launch, at once; it does no harm if they are gone.

    Raises LaunchError.
    """
    try:
        secrets.ask("delete_secret", SecretId=name_of(launch), ForceDeleteWithoutRecovery=True)
    except LaunchError as error:
        if "ResourceNotFoundException" not in str(error):
            raise
