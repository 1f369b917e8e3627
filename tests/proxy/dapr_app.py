"""An application that calls a service by the Dapr SDK as it is, and prints what it got as one line of JSON."""

import asyncio
import json

from dapr.aio.clients import DaprClient as AsyncDaprClient
from dapr.clients import DaprClient


def told(response):
    return {
        "status": response.status_code,
        "type": response.content_type,
        "headers": {name.lower(): values for name, values in response.headers.items()},
        "text": response.text(),
    }


def fails(client, service, method):
    try:
        client.invoke_method(service, method, http_verb="GET")
    except Exception as error:  # whatever the SDK makes of it
        return {"kind": type(error).__name__, "text": str(error)}
    return None


async def asynchronously():
    async with AsyncDaprClient() as client:
        return told(await client.invoke_method("users", "async", data=b"bytes", http_verb="PUT"))


with DaprClient() as client:
    results = {
        "get": told(client.invoke_method("users", "people/ada", http_verb="GET")),
        "post": told(
            client.invoke_method(
                "users",
                "people?sort=asc",
                data=json.dumps({"name": "Ada"}),
                content_type="application/json; charset=utf-8",
                metadata=(("X-Tenant", "blue"),),
                http_verb="POST",
                http_querystring=(("tag", "a b"), ("tag", "c")),
            )
        ),
        "flaky": told(client.invoke_method("users", "flaky", http_verb="GET")),
        "missing": fails(client, "users", "missing"),
        "unknown": fails(client, "nobody", "people"),
    }
results["async"] = asyncio.run(asynchronously())
print(json.dumps(results))
