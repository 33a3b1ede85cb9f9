"""The way of an image through one worker: fetch, decode, batch, predict."""
