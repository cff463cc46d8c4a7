"""What tabs and the command line call. No gradio in here, and no SQL."""

from app.services.errors import ServiceError
from app.services.explorer import Explorer

__all__ = ["Explorer", "ServiceError"]
