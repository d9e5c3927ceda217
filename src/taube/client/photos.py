"""Takes out of a photo what tells where, when and with what it was taken, and turns it upright.

Pillow reads the picture and writes it anew in the same format, with its colours but without anything else that stood
beside it: EXIF, XMP, IPTC, comments, thumbnails. Pictures that it cannot read, and films, are left to the person: they
can be sent as they are if that is asked for. The only importer of Pillow, which is an extra (`taube[photos]`).
Source: docs/protocol/content.md, CNT-43.
"""

import io
from typing import Any, Final, NamedTuple

from taube.client.errors import WrongInput

MOST_PIXELS: Final = 200_000_000
MOST_BYTES: Final = 256 * 1024 * 1024
_TYPES: Final = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
AS_IS: Final = "send it as it is with --as-is, or as another kind of file"


class Photo(NamedTuple):
    """A clean picture and its size in pixels."""

    data: bytes
    media_type: str
    width: int
    height: int


def is_picture_or_film(media_type: str) -> bool:
    """Whether a file of this type may tell where it was made."""
    return media_type.startswith(("image/", "video/"))


def cleaned(data: bytes, media_type: str) -> Photo:
    """The picture in *data* without what it tells. *media_type*: what its name says that it is. Raises WrongInput if it
    is none that can be cleaned."""
    if not data:
        raise WrongInput("The file is empty: choose another.")
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise WrongInput(
            "What a photo tells of where it was taken cannot be taken out, because Pillow is not installed: pip"
            f" install 'taube[photos]', or {AS_IS}."
        ) from error
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    try:
        if len(data) > MOST_BYTES:
            raise Image.DecompressionBombError
        with Image.open(io.BytesIO(data), formats=tuple(_TYPES)) as picture:
            kind = picture.format or ""
            if getattr(picture, "n_frames", 1) > 1:
                return _moving(picture, kind)
            upright = ImageOps.exif_transpose(picture)
            options: dict[str, Any] = {"icc_profile": picture.info.get("icc_profile")}
            options |= {"quality": 92} if kind in ("JPEG", "WEBP") else {}
            return _written(upright, kind, options)
    except Image.DecompressionBombError as error:
        raise WrongInput(
            f"What a picture as large as this tells of where it was made cannot be taken out: {AS_IS}."
        ) from error
    except UnidentifiedImageError as error:
        if media_type in _TYPES.values():
            raise WrongInput(
                "The file is not the picture that its name says, or it is damaged: choose another, or give it the"
                " ending of what it is."
            ) from error
        raise WrongInput(
            "What this picture or film tells of where it was made cannot be taken out (that works for JPEG, PNG, WebP"
            f" and GIF): {AS_IS}."
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise WrongInput(
            "The picture is damaged: choose another, or save it anew with an app that shows it."
        ) from error


def _moving(picture: Any, kind: str) -> Photo:
    options: dict[str, Any] = {"save_all": True, "duration": picture.info.get("duration", 100)}
    options |= {"loop": picture.info.get("loop", 0), "icc_profile": picture.info.get("icc_profile")}
    return _written(picture, kind, options)


def _written(picture: Any, kind: str, options: dict[str, Any]) -> Photo:
    for told in ("exif", "xmp", "XML:com.adobe.xmp", "comment", "photoshop", "dpi"):
        picture.info.pop(told, None)
    out = io.BytesIO()
    empty = {"exif": b""} if kind != "GIF" else {}
    picture.save(out, kind, **{name: value for name, value in (options | empty).items() if value is not None})
    return Photo(out.getvalue(), _TYPES[kind], picture.width, picture.height)
