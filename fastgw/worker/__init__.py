"""One worker process: it joins core, http, kafka and mesh."""
