"""The same program on asyncio's loop and on ours: what each of them was seen to do must be the same.

A program is a list of steps, drawn by hypothesis. What a step does, it does in one callback; then the
driver waits until neither the loop nor the kernel has anything left to tell (driver.py), so the kernel's
timing decides nothing. What happened in the step is in the trace (trace.py). Each language of programs
has a file: its operations, how they are drawn, and how they are run.

A language says only what asyncio answers in one way. What docs/compatibility.md declares to differ,
and what asyncio itself leaves to chance, cannot be said in it; the reason stands where it is left out.
"""
