"""Draws the icons of the installed app beside itself: `python3 icons.py`.

The same picture as `../favicon.svg`, in the sizes that phones and desktops ask for. Nothing but
Python is needed, and the same bytes come out everywhere.
"""

import math
import pathlib
import struct
import zlib

VIOLET, WHITE = (0x5B, 0x3F, 0xD6), (255, 255, 255)
# In units of the picture, which is 32 wide.
ORBIT = (10.5, 4.6)
STROKE = 2.4
CORE = 2.6
CORNER = 8.0
STEPS = 720


def main():
    folder = pathlib.Path(__file__).parent
    for name, size, room, corner in [
        # What systems cut to a shape of their own needs paint in its corners, and room around.
        ("icon-180", 180, 1.0, 0.0),
        ("icon-192", 192, 1.0, CORNER),
        ("icon-512", 512, 1.0, CORNER),
        ("maskable-512", 512, 0.78, 0.0),
    ]:
        (folder / f"{name}.png").write_bytes(png(size, draw(size, room, corner)))


def draw(size, room, corner):
    """Returns the rows of a picture in RGBA."""
    scale = size / 32
    strokes = orbits(size, room * scale)
    rows = []
    for y in range(size):
        row = bytearray()
        for x in range(size):
            left, top = (x + 0.5) / scale - 16, (y + 0.5) / scale - 16
            ground = covered(rounded(left, top, corner), scale)
            core = covered(CORE * room - math.hypot(left, top), scale)
            white = max(core, strokes[y * size + x])
            colour = [round(v + (w - v) * white) for v, w in zip(VIOLET, WHITE)]
            row += bytes([*colour, round(255 * ground)])
        rows.append(bytes(row))
    return rows


def rounded(x, y, corner):
    """Returns how far inside of the rounded square a point lies."""
    across, down = abs(x) - (16 - corner), abs(y) - (16 - corner)
    outside = math.hypot(max(across, 0), max(down, 0))
    return corner - outside - min(max(across, down), 0)


def covered(inside, scale):
    return min(max(inside * scale + 0.5, 0), 1)


def orbits(size, scale):
    """Returns how far each pixel is covered by one of the three ellipses."""
    half = STROKE / 2 * scale
    covers = [0.0] * (size * size)
    for turn in (0, math.pi / 3, 2 * math.pi / 3):
        for step in range(STEPS):
            angle = 2 * math.pi * step / STEPS
            x, y = ORBIT[0] * math.cos(angle), ORBIT[1] * math.sin(angle)
            across = size / 2 + (x * math.cos(turn) - y * math.sin(turn)) * scale
            down = size / 2 + (x * math.sin(turn) + y * math.cos(turn)) * scale
            reach = half + 1
            for row in range(max(int(down - reach), 0), min(int(down + reach) + 1, size)):
                for column in range(max(int(across - reach), 0), min(int(across + reach) + 1, size)):
                    far = math.hypot(column + 0.5 - across, row + 0.5 - down)
                    place = row * size + column
                    covers[place] = max(covers[place], min(max(half - far + 0.5, 0), 1))
    return covers


def png(size, rows):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", size, size, 8, 6, 0, 0, 0)
    lines = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


if __name__ == "__main__":
    main()
