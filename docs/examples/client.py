"""A small, complete client for Tally in Python: what docs/writing-a-client.md says, as code.

It has single calls with idempotency keys and retries over the nodes, reads at the session level with a
token, and one stream whose writes carry the stamps of a session. Not in it: the other operations, which
are called in the same ways. It needs `grpcio`, `googleapis-common-protos`, and the modules that
`grpc_tools.protoc` makes of proto/proto/tally/v1 (docs/examples/run.sh does both).
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import queue
import random
import threading
import time
import uuid

import grpc
from google.rpc import error_details_pb2, status_pb2

from tally.v1 import common_pb2, counters_pb2, counters_pb2_grpc, errors_pb2
from tally.v1 import sessions_pb2, sessions_pb2_grpc, stream_pb2, stream_pb2_grpc

NOT_APPLIED = errors_pb2.OUTCOME_NOT_APPLIED
UNKNOWN = errors_pb2.OUTCOME_UNKNOWN

# One attempt may take this long, so that a node that hangs leaves time for another one.
ATTEMPT_SECONDS = 2.0
# A key that this client made is of no use to anybody once its call is over: the shortest window.
ONE_CALL_WINDOW_MS = 60_000
# Writes under way without a session: nothing bounds them but what the caller holds.
KEYS_UNDER_WAY_MAX = 1024
# Codes after which the same may be sent again. Those behind are what a broken connection or a proxy says;
# a node that refuses says why (ErrorInfo), so without a reason they are worth another try.
RETRY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}
RETRY_WITHOUT_REASON = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED}
# Full tables stay full for as long as their entries are promised.
FULL = {"DEDUP_TABLE_FULL", "SESSION_TABLE_FULL"}

CODES = {code.value[0]: code for code in grpc.StatusCode}


class Failure:
    """How one attempt ended: the status, with its details taken apart."""

    def __init__(self, status: status_pb2.Status, is_from_node: bool):
        self.code = CODES.get(status.code, grpc.StatusCode.UNKNOWN)
        self.message = status.message
        self.reason = ""
        self.decided = False
        # Whoever loses a connection knows nothing of what was sent over it.
        self.outcome = UNKNOWN
        self.header = None
        self.retry_after = 0.0
        self.is_from_node = is_from_node
        for detail in status.details:
            self._take(detail)

    def _take(self, detail) -> None:
        # Each detail is an Any; its type URL is type.googleapis.com/ and the name of the message.
        info, pause = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        outcome, state = errors_pb2.WriteOutcome(), errors_pb2.AnswerState()
        if detail.Unpack(info):
            self.reason = info.reason
        elif detail.Unpack(pause):
            self.retry_after = pause.retry_delay.ToTimedelta().total_seconds()
        elif detail.Unpack(outcome):
            self.outcome, self.decided = outcome.outcome, outcome.decided_in_apply
        elif detail.Unpack(state):
            self.header = state.header

    @classmethod
    def of_call(cls, error: grpc.RpcError) -> Failure:
        """Of a unary call: the details are in a trailer, as a google.rpc.Status in bytes."""
        for name, value in error.trailing_metadata() or ():
            if name == "grpc-status-details-bin":
                return cls(status_pb2.Status.FromString(value), is_from_node=True)
        status = status_pb2.Status(code=error.code().value[0], message=error.details())
        return cls(status, is_from_node=False)

    @classmethod
    def of_answer(cls, status: stream_pb2.CallStatus) -> Failure:
        """Of a call on the stream: CallStatus has the fields of google.rpc.Status."""
        return cls(status_pb2.Status.FromString(status.SerializeToString()), is_from_node=True)

    def may_be_sent_again(self) -> bool:
        if self.reason in FULL:
            return False
        if self.reason == "OUTCOME_UNKNOWN":
            return True
        return self.code in RETRY or (not self.reason and self.code in RETRY_WITHOUT_REASON)


class TallyError(Exception):
    """A call that failed. `outcome` speaks for all of its attempts; it is None for a read.

    With `this_call_only`, NOT_APPLIED says nothing of earlier calls under the same idempotency key.
    """

    def __init__(self, failure: Failure, outcome=None, decided=False, key=None, this_call_only=False):
        name = "" if outcome is None else f", {errors_pb2.Outcome.Name(outcome)}"
        super().__init__(f"{failure.message} ({failure.reason or failure.code.name}{name})")
        self.code, self.reason, self.message = failure.code, failure.reason, failure.message
        self.outcome, self.decided = outcome, decided
        self.key, self.this_call_only = key, this_call_only


@dataclasses.dataclass
class Attempts:
    """The attempts at one write, and what may be said of it in the end."""

    until: float
    # Under a key of the caller's own there may have been earlier calls.
    key_was_chosen: bool = False
    has_session: bool = False
    key: str | None = None
    unknown: bool = False

    def failed(self, failure: Failure) -> TallyError | None:
        """The error to tell, or None to send the same again."""
        settles = failure.decided and failure.outcome == NOT_APPLIED
        if failure.reason == "DEDUP_TABLE_FULL" and not self.has_session:
            # There was no room to remember this refusal: an earlier copy may still be executed.
            settles = settles and not self.unknown
        if settles:
            # Remembered under number or key, so no earlier attempt can be executed any more.
            self.unknown = False
        # A session that has ended executes nothing. It may have before, if this was sent before.
        elif failure.outcome == UNKNOWN and failure.reason != "SESSION_EXPIRED":
            self.unknown = True
        if not settles and failure.may_be_sent_again() and time.monotonic() < self.until:
            return None
        outcome = UNKNOWN if self.unknown else NOT_APPLIED
        speaks_of_key = settles and failure.reason != "DEDUP_TABLE_FULL"
        only = self.key_was_chosen and outcome == NOT_APPLIED and not speaks_of_key
        return TallyError(failure, outcome, settles, self.key, only)


@dataclasses.dataclass
class Token:
    """The newest state that was seen: of two tokens of one cluster, that with the higher applied index."""

    cluster_id: str = ""
    applied_index: int = 0
    token: bytes = b""

    def saw(self, header: common_pb2.ResponseHeader | None) -> None:
        if header is None or not header.session_token:
            return
        if self.cluster_id and header.cluster_id != self.cluster_id:
            return  # A node of another cluster changes nothing.
        if not self.token or header.applied_index > self.applied_index:
            self.cluster_id = header.cluster_id
            self.applied_index, self.token = header.applied_index, header.session_token


class Tally:
    """A client of one cluster. Any node takes any call; one that does not lead passes it on."""

    def __init__(self, endpoints: list[str], deadline: float = 10.0):
        options = [
            # A node that comes back is found again soon.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            # A node that is cut off without a word is noticed.
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 5_000),
        ]
        self._channels = [grpc.insecure_channel(at, options) for at in endpoints]
        self._at = random.randrange(len(self._channels))
        self._deadline = deadline
        self.token = Token()

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    # --- Writes -----------------------------------------------------------------------------------

    def add(self, name: str, delta: int = 1, floor: int | None = None, key: str | None = None):
        """Moves a counter, once, however often it is sent. Choose a key if anybody, another process
        too, may ever send this write again; without one it gets a key of its own for this call."""
        request = counters_pb2.CountersAddRequest(name=name, delta=delta)
        if floor is not None:
            request.bounds.floor = floor
        return self._write(lambda channel: counters_pb2_grpc.CountersStub(channel).Add, request, key)

    def _write(self, method, request, key: str | None):
        if key == "":
            raise ValueError("an empty idempotency key protects nothing")
        window_ms = 0 if key else ONE_CALL_WINDOW_MS
        attempts = Attempts(time.monotonic() + self._deadline, key_was_chosen=key is not None)
        attempts.key = key or uuid.uuid4().hex
        request.options.idempotency_key = attempts.key
        request.options.idempotency_window_ms = window_ms
        for pause in pauses():
            answer, failure = self._attempt(method, request, attempts.until)
            if answer is not None:
                return answer
            error = attempts.failed(failure)
            if error:
                raise error
            self._elsewhere()
            time.sleep(max(pause, failure.retry_after))

    # --- Reads ------------------------------------------------------------------------------------

    def get(self, name: str) -> int:
        """Sees every write that was acknowledged before, to anybody (the default level)."""
        request = counters_pb2.CountersGetRequest(name=name)
        return self._read(lambda channel: counters_pb2_grpc.CountersStub(channel).Get, request)

    def get_seen(self, name: str) -> int:
        """Sees all that this client has seen and written; any node answers without asking others."""
        request = counters_pb2.CountersGetRequest(name=name)
        if self.token.token:  # Without one the default level is the one that can't be too weak.
            request.read.level = common_pb2.READ_LEVEL_SESSION
            request.read.session_token = self.token.token
        return self._read(lambda channel: counters_pb2_grpc.CountersStub(channel).Get, request)

    def _read(self, method, request) -> int:
        until, of_another, others = time.monotonic() + self._deadline, 0, 0
        for pause in pauses():
            answer, failure = self._attempt(method, request, until)
            if answer is not None:
                return answer.counter.value
            self._elsewhere()
            if failure.reason in ("TOKEN_OF_ANOTHER_CLUSTER", "TOKEN_NOT_REACHED"):
                # One node's word: each other one is asked before the caller is told.
                of_another += failure.reason == "TOKEN_OF_ANOTHER_CLUSTER"
                others += failure.reason == "TOKEN_NOT_REACHED"
                if of_another + others < len(self._channels):
                    continue
                if not others:
                    self.token = Token()  # Told once; then the client begins anew.
                raise TallyError(failure)
            if not failure.may_be_sent_again() or time.monotonic() > until:
                raise TallyError(failure)
            time.sleep(max(pause, failure.retry_after))

    # --- Sessions ---------------------------------------------------------------------------------

    def pipeline(self) -> Pipeline:
        """A stream of many writes at once."""
        return Pipeline(self)

    def _session(self, name: str, request):
        """Sessions may be opened, renewed and closed twice: the idle one ends by itself."""
        attempts = Attempts(time.monotonic() + self._deadline)
        for pause in pauses():
            method = lambda channel: getattr(sessions_pb2_grpc.SessionsStub(channel), name)
            answer, failure = self._attempt(method, request, attempts.until)
            if answer is not None:
                return answer
            error = attempts.failed(failure)
            if error:
                raise error
            self._elsewhere()
            time.sleep(max(pause, failure.retry_after))

    # --- Attempts ---------------------------------------------------------------------------------

    def _attempt(self, method, request, until: float):
        """Sends a call once: an answer, or how it failed."""
        timeout = max(0.001, min(ATTEMPT_SECONDS, until - time.monotonic()))
        try:
            answer = method(self._channels[self._at])(request, timeout=timeout)
            self.token.saw(answer.header)
            return answer, None
        except grpc.RpcError as error:
            failure = Failure.of_call(error)
            if failure.reason != "TOKEN_OF_ANOTHER_CLUSTER":
                self.token.saw(failure.header)  # A refusal shows a state, too.
            return None, failure

    def _elsewhere(self) -> None:
        self._at = (self._at + 1) % len(self._channels)


def pauses():
    """Growing pauses with jitter, so that not all clients come back at once. The first is none."""
    yield 0.0
    pause = 0.01
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(2 * pause, 0.25)


@dataclasses.dataclass
class Pending:
    """A write on the stream that has no answer yet."""

    add: counters_pb2.CountersAddRequest
    answer: concurrent.futures.Future
    attempts: Attempts
    pauses: object
    # It was sent over a stream that has broken since, or refused: it waits to be sent again.
    waits: bool = True
    sent: bool = False


class Pipeline:
    """Writes of one session over one stream: many under way, answers in any order.

    Each write has a number, and is sent again under that number until it is answered, over another
    stream if this one breaks. The number makes it count once. With every write goes the lowest number
    without an answer: what is remembered below it the cluster may forget. Use it as a context.

    Where the cluster has no place for a session, each write carries a random key instead, the same at
    each attempt. A pipeline stays with what it began with; the next one asks for a session again.
    """

    def __init__(self, tally: Tally):
        self._tally = tally
        try:
            opened = tally._session("Open", sessions_pb2.SessionsOpenRequest())
        except TallyError as error:
            if error.reason != "SESSION_TABLE_FULL":
                raise
            opened = sessions_pb2.SessionsOpenResponse(session_id=0, window=KEYS_UNDER_WAY_MAX)
        # 0 is no session's id.
        self._id, self._window = opened.session_id, opened.window
        # A session ends when it was idle for so long; whoever only waits renews it before.
        self._renew_every = opened.idle_timeout_ms / 1000 / 3
        self._changed = threading.Condition()
        self._pending: dict[int, Pending] = {}
        self._next = 1
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._run, daemon=True)
        self._renewer = threading.Thread(target=self._renew, daemon=True)
        self._reader.start()
        if self._id:
            self._renewer.start()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._pending)
        self._ended.set()
        self._queue.put(None)
        self._reader.join()
        if not self._id:
            return
        try:
            self._tally._session("Close", sessions_pb2.SessionsCloseRequest(session_id=self._id))
        except TallyError:
            pass  # It ends by itself.

    def add(self, name: str, delta: int = 1) -> concurrent.futures.Future:
        """Moves a counter. The future has the answer, or a TallyError."""
        request = counters_pb2.CountersAddRequest(name=name, delta=delta)
        attempts = Attempts(time.monotonic() + self._tally._deadline, has_session=bool(self._id))
        if not self._id:
            attempts.key = uuid.uuid4().hex
            request.options.idempotency_key = attempts.key
            request.options.idempotency_window_ms = ONE_CALL_WINDOW_MS
        with self._changed:
            # Beyond the window a node refuses (SESSION_WINDOW_FULL), and time does not help.
            self._changed.wait_for(lambda: self._next - self._lowest() < self._window)
            number, self._next = self._next, self._next + 1
            answer = concurrent.futures.Future()
            self._pending[number] = Pending(request, answer, attempts, pauses())
        self._send(number)
        return answer

    def _lowest(self) -> int:
        # Numbers go in ascending, and a dict keeps that order.
        return next(iter(self._pending), self._next)

    def _send(self, number: int) -> None:
        with self._changed:
            pending = self._pending.get(number)
            if pending is None or not pending.waits:
                return
            pending.waits, pending.sent = False, True
            request = counters_pb2.CountersAddRequest()
            request.CopyFrom(pending.add)
            if self._id:
                stamp = common_pb2.SessionStamp(
                    session_id=self._id, sequence=number, lowest_unanswered=self._lowest()
                )
                request.options.session.CopyFrom(stamp)
            left = max(0.001, min(ATTEMPT_SECONDS, pending.attempts.until - time.monotonic()))
            call = stream_pb2.Call(id=number, deadline_ms=int(left * 1000) or 1, counters_add=request)
            self._queue.put(stream_pb2.StreamExchangeRequest(calls=[call]))

    def _run(self) -> None:
        """Reads answers, and opens another stream when one breaks."""
        for pause in pauses():
            channel = self._tally._channels[self._tally._at]
            sending = self._queue
            try:
                exchange = stream_pb2_grpc.StreamStub(channel).Exchange
                for pack in exchange(iter(sending.get, None)):
                    for answer in pack.answers:
                        self._answered(answer)
            except grpc.RpcError as error:
                failure = Failure.of_call(error)
            else:
                failure = Failure(status_pb2.Status(code=14, message="the stream ended"), False)
            if self._ended.is_set():
                return
            self._tally._elsewhere()
            with self._changed:
                # Packs that were queued for the old stream are made again for the new one.
                self._queue = queue.SimpleQueue()
                sending.put(None)
                sent = [number for number, pending in self._pending.items() if pending.sent]
            for number in sent:
                self._failed(number, failure, at_once=True)
            time.sleep(pause)

    def _answered(self, answer: stream_pb2.Answer) -> None:
        if answer.WhichOneof("response") == "error":
            failure = Failure.of_answer(answer.error)
            self._tally.token.saw(failure.header)
            self._failed(answer.id, failure, at_once=False)
            return
        self._tally.token.saw(answer.counters_add.header)
        pending = self._take(answer.id)
        if pending:
            pending.answer.set_result(answer.counters_add)

    def _failed(self, number: int, failure: Failure, at_once: bool) -> None:
        with self._changed:
            pending = self._pending.get(number)
            if pending is None:
                return
            error = pending.attempts.failed(failure)
            if error is None:
                pending.waits, pending.sent = True, False
                pause = 0.0 if at_once else max(next(pending.pauses), failure.retry_after)
        if error is None:
            again = threading.Timer(pause, self._send, [number])
            again.daemon = True
            again.start()
            return
        # Given up: its number counts as answered, so a late copy of it can never be executed once a
        # later write has told the cluster so.
        taken = self._take(number)
        if taken:
            taken.answer.set_exception(error)

    def _take(self, number: int) -> Pending | None:
        with self._changed:
            taken = self._pending.pop(number, None)
            self._changed.notify_all()
            return taken

    def _renew(self) -> None:
        while not self._ended.wait(self._renew_every):
            with self._changed:
                lowest = self._lowest()
            request = sessions_pb2.SessionsRenewRequest(session_id=self._id, lowest_unanswered=lowest)
            try:
                self._tally._session("Renew", request)
            except TallyError:
                pass  # The next write says what became of it.
