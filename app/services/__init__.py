"""Services: what the dashboard and the command line call. No gradio and no SQL in here.

Importing this package does not import torch: services import it when they first need a model.
"""

from app.services.errors import ServiceError
from app.services.services import Services, open_services

__all__ = ["ServiceError", "Services", "open_services"]
