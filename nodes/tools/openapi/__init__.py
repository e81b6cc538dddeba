"""An API's operations as tools, from its OpenAPI document.

crm = openapi_tools("crm.yaml", name="crm", server="https://crm.example.com/api", operations=["customers"])
Planner(..., tools=crm)
Engine(..., resources=[Web(), Credentials({"https://crm.example.com/api": Bearer(token)})])
"""

from __future__ import annotations

from flowkit.nodes.tools.openapi.answers import ApiAnswer
from flowkit.nodes.tools.openapi.credentials import ApiKey, Basic, Bearer, Credentials
from flowkit.nodes.tools.openapi.document import fetch_document
from flowkit.nodes.tools.openapi.tool import ApiError, OpenAPITool, openapi_tools

__all__ = [
    "ApiAnswer", "ApiError", "ApiKey", "Basic", "Bearer", "Credentials", "OpenAPITool", "fetch_document",
    "openapi_tools",
]  # fmt: skip
