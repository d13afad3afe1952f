"""What a terminal shows of a program, as SVG: picture.py FILE.svg PROGRAM ARGUMENT… Needs pyte (PyPI)."""

import fcntl
import html
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

import pyte

COLUMNS, LINES, SECONDS = 132, 24, 5
WIDTH, HEIGHT, MARGIN = 7.3, 16, 10
# A background of its own, so that it can be read on a light page and on a dark one.
PAPER, INK = "#1b1f24", "#d5dae1"
COLOURS = {"black": "#6e7681", "red": "#ff7b72", "green": "#7ee787", "brown": "#e3b341", "blue": "#79c0ff",
           "magenta": "#d2a8ff", "cyan": "#76e3ea", "white": "#f0f6fc",
           # The same by number, of the 256.
           "cd0000": "#ff7b72", "00cd00": "#7ee787", "cdcd00": "#e3b341", "00cdcd": "#76e3ea"}


def colour(name, default):
    name = name.removeprefix("bright")
    if name not in COLOURS and len(name) == 6 and all(digit in "0123456789abcdef" for digit in name):
        return "#" + name
    return COLOURS.get(name, default)


def look(command):
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    os.kill(pid, signal.SIGWINCH)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                stream.feed(os.read(terminal, 65536))
            except OSError:
                # It has ended by itself.
                break
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return screen


def draw(screen):
    wide, high = COLUMNS * WIDTH + 2 * MARGIN, LINES * HEIGHT + 2 * MARGIN
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {high}" font-size="12" '
           'font-family="ui-monospace, DejaVu Sans Mono, Menlo, Consolas, monospace">',
           f'<rect width="100%" height="100%" rx="6" fill="{PAPER}"/>']
    for y in range(LINES):
        x = 0
        while x < COLUMNS:
            first = screen.buffer[y][x]
            style = (first.fg, first.bg, first.bold, first.reverse)
            begin, text = x, ""
            while x < COLUMNS:
                cell = screen.buffer[y][x]
                if (cell.fg, cell.bg, cell.bold, cell.reverse) != style:
                    break
                text, x = text + (cell.data or " "), x + 1
            ink, paper = colour(first.fg, INK), colour(first.bg, PAPER)
            if first.reverse:
                ink, paper = paper, ink
            left, top = MARGIN + begin * WIDTH, MARGIN + y * HEIGHT
            if paper != PAPER:
                out.append(f'<rect x="{left:.1f}" y="{top}" width="{(x - begin) * WIDTH:.1f}" height="{HEIGHT}" '
                           f'fill="{paper}"/>')
            if text.strip():
                bold = ' font-weight="bold"' if first.bold else ""
                out.append(f'<text x="{left:.1f}" y="{top + 12}" fill="{ink}"{bold} xml:space="preserve" '
                           f'textLength="{len(text) * WIDTH:.1f}" lengthAdjust="spacingAndGlyphs">'
                           f'{html.escape(text)}</text>')
    return "\n".join(out + ["</svg>", ""])


with open(sys.argv[1], "w") as file:
    file.write(draw(look(sys.argv[2:])))
