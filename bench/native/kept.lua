-- wrk's part of `bench.questions.kept`. BENCH_KIND says what is sent:
--   plain    POST /orders
--   first    POST /keyed, each with an Idempotency-Key of its own that begins with BENCH_RUN
--   replay   POST /keyed, with the keys 0, 1, ... BENCH_COUNT - 1 of BENCH_RUN in turn
--   ticket   GET, of the status URLs in BENCH_TICKETS_FILE in turn, one a line
dofile(os.getenv("BENCH_SCRIPTS") .. "/post.lua")

local kind, run, count = os.getenv("BENCH_KIND"), os.getenv("BENCH_RUN"), tonumber(os.getenv("BENCH_COUNT"))
local number, tickets = -1, {}

function init()  -- wrk calls it when it knows the host
  if kind ~= "ticket" then return end
  for path in io.lines(os.getenv("BENCH_TICKETS_FILE")) do tickets[#tickets + 1] = wrk.format("GET", path, {}, "") end
end

function request()
  number = number + 1
  if kind == "plain" then return wrk.format("POST", "/orders") end
  if kind == "ticket" then return tickets[number % #tickets + 1] end
  wrk.headers["Idempotency-Key"] = '"' .. run .. "-" .. (kind == "replay" and number % count or number) .. '"'
  return wrk.format("POST", "/keyed")
end
