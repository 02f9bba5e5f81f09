#!/usr/bin/env python3
"""A client of the fleet that knows no line of our code: it speaks NATS by nats-py and reads everything else in schemas/.

    PYTHONPATH=$(scripts/python-client) tests/python/fleet.py --server nats://127.0.0.1:4222 fleet
    … fleet.py snapshot db1                        makes a snapshot and waits for it
    … fleet.py seed db1 db2 --stop-mysql           plans, starts and watches a seed of db2 from db1
    … fleet.py events --kind snapshot              prints what the stream of events holds

Each line that it prints is one JSON object. Whatever it sends and whatever it hears is validated by its schema first.
With --sign-key FILE (an nkey seed) commands are signed, as schemas/README.md says.
"""

import argparse
import asyncio
import base64
import datetime
import json
import os
import pathlib
import secrets
import sys
import time
import uuid

import jsonschema
import nats
import nats.errors
import nkeys
from nats.js.api import ConsumerConfig, DeliverPolicy

# The stream's name stands in schemas/README.md; all subjects come from asyncapi.json.
EVENT_STREAM = "orch_events"
JOB_LIMIT_S = 120.0


class Refused(Exception):
    """The agent's own error."""

    def __init__(self, error):
        super().__init__(f"{error['code']}: {error['message']}")
        self.error = error


class Schemas:
    """The published descriptions, and nothing else."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.asyncapi = self.load("asyncapi.json")
        self.validators = {}

    def load(self, path):
        return json.loads((self.directory / path).read_text())

    def check(self, value, path, part=None):
        """Raises unless the value is what the schema says."""
        validator = self.validators.get((path, part))
        if validator is None:
            schema = self.load(path)
            schema = schema[part] if part else schema
            jsonschema.Draft202012Validator.check_schema(schema)
            validator = jsonschema.Draft202012Validator(
                schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
            )
            self.validators[path, part] = validator
        validator.validate(value)
        return value

    def subject(self, channel, **parameters):
        address = self.asyncapi["channels"][channel]["address"]
        return address.format(**parameters)

    def command_file(self, command):
        reply = self.asyncapi["channels"][command]["messages"]["reply"]
        return reply["x-result"]["$ref"].split("#")[0]


def host_token(agent):
    """As asyncapi.json describes the parameter `host`."""
    plain = "abcdefghijklmnopqrstuvwxyz0123456789-"
    return "".join(c if c in plain else "_" if c == "." else f"X{ord(c):02X}" for c in agent.lower())


def uuid7():
    """Python's standard library has none before 3.14."""
    value = int(time.time() * 1000) << 80 | 7 << 76 | secrets.randbits(12) << 64
    return str(uuid.UUID(int=value | 2 << 62 | secrets.randbits(62)))


class Fleet:
    """The agents on one bus."""

    def __init__(self, nc, schemas, key=None, actor="fleet.py"):
        self.nc, self.schemas, self.key, self.actor = nc, schemas, key, actor

    async def discover(self, quiet_s=0.5, limit_s=5.0):
        """Every agent's heartbeat: one question, answers until no more come."""
        inbox = self.nc.new_inbox()
        answers = await self.nc.subscribe(inbox)
        await self.nc.publish(self.schemas.subject("askFleet"), b"", reply=inbox)
        found, until, wait = {}, time.monotonic() + limit_s, limit_s
        while time.monotonic() < until:
            try:
                message = await answers.next_msg(timeout=wait)
            except nats.errors.TimeoutError:
                break
            heartbeat = self.schemas.check(json.loads(message.data), "v1/heartbeat.json")
            found[heartbeat["agent"]] = heartbeat
            wait = quiet_s
        await answers.unsubscribe()
        return [found[agent] for agent in sorted(found)]

    async def call(self, agent, command, params=None, timeout_s=30.0):
        """The result of one command."""
        params = params or {}
        path = self.schemas.command_file(command)
        self.schemas.check(params, path, "params")
        deadline = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=timeout_s)
        request = {
            "version": 1,
            "id": uuid7(),
            "deadline": deadline.isoformat(),
            "actor": self.actor,
            "command": command,
            "params": params,
        }
        body = json.dumps(self.schemas.check(request, "v1/request.json")).encode()
        subject = self.schemas.subject(command, host=host_token(agent))
        message = await self.nc.request(subject, body, timeout=timeout_s, headers=self.signed(subject, body))
        reply = self.schemas.check(json.loads(message.data), "v1/reply.json")
        assert reply["id"] == request["id"], "the reply is to another request"
        if "error" in reply:
            raise Refused(reply["error"])
        return self.schemas.check(reply["result"], path, "result")

    def signed(self, subject, body):
        if self.key is None:
            return None
        signature = self.key.sign(b"orch-command-v1\0" + subject.encode() + b"\0" + body)
        return {
            "Orch-Key": self.key.public_key.decode(),
            "Orch-Signature": base64.urlsafe_b64encode(signature).rstrip(b"=").decode(),
        }

    async def events(self, follow=False, begin=1, quiet_s=1.0):
        """The durable events in order from a place in the stream; without `follow` up to its present end."""
        last = (await self.nc.jetstream().stream_info(EVENT_STREAM)).state.last_seq
        subject = self.schemas.subject("event", host="*", kind=">")
        place = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=begin)
        reader = await self.nc.jetstream().subscribe(
            subject, stream=EVENT_STREAM, ordered_consumer=True, config=place
        )
        try:
            position = begin - 1
            while follow or position < last:
                try:
                    message = await reader.next_msg(timeout=quiet_s)
                except nats.errors.TimeoutError:
                    if follow:
                        continue
                    return
                position = message.metadata.sequence.stream
                event = self.schemas.check(json.loads(message.data), "v1/event.json")
                kind = event["type"].removeprefix("orch.")
                self.schemas.check({"kind": kind, "data": event["data"]}, "v1/event-data.json")
                yield event
        finally:
            await reader.unsubscribe()

    async def job(self, agent, command, params, tell):
        """Begins a job and tells its stages and counters until its end; the job as `jobs.show` gives it."""
        begin = (await self.nc.jetstream().stream_info(EVENT_STREAM)).state.last_seq + 1
        job = (await self.call(agent, command, params))["job"]
        tell({"begun": command, "host": agent, "job": job})

        async def on_progress(message):
            tell({"progress": self.schemas.check(json.loads(message.data), "v1/progress.json")})

        subject = self.schemas.subject("progress", host=host_token(agent), job=job)
        progress = await self.nc.subscribe(subject, cb=on_progress)

        async def until_finished():
            async for event in self.events(follow=True, begin=begin):
                if event["type"] in ("orch.job.stage", "orch.job.finished") and event["data"]["job"] == job:
                    tell({"stage": event["data"]["stage"], "what": event["data"]["what"]})
                    if event["type"] == "orch.job.finished":
                        return

        try:
            await asyncio.wait_for(until_finished(), JOB_LIMIT_S)
        finally:
            await progress.unsubscribe()
        return await self.call(agent, "jobs.show", {"job": job})

    async def seed(self, donor, recipient, options, tell):
        """Plan, offer, start, watch: what `orchestrator-ctl seed start` does."""
        facts = await self.call(donor, "seed.survey")
        plan = await self.call(recipient, "seed.plan", {"donor": facts, "options": options})
        tell({"plan": {"bytes": plan["bytes"], "actions": plan["actions"]}})
        refusals = [guard for guard in plan["guards"] if guard["verdict"] == "refuse"]
        if refusals:
            raise SystemExit(f"refused: {refusals}")
        offer = await self.call(
            donor, "seed.offer", {"recipient": recipient, "snapshot": plan["snapshot"]}
        )
        start = {"offer": offer, "options": options, "plan_digest": plan["digest"]}
        try:
            return await self.job(recipient, "seed.start", start, tell)
        except Refused:
            await self.call(donor, "seed.release", {"offer": offer["id"]})
            raise


def tell(line):
    print(json.dumps(line), flush=True)


async def run(args):
    schemas = Schemas(args.schemas)
    key = None
    if args.sign_key:
        key = nkeys.from_seed(pathlib.Path(args.sign_key).read_bytes().split()[0])
    nc = await nats.connect(args.server, name="fleet.py", allow_reconnect=True)
    fleet = Fleet(nc, schemas, key)
    try:
        if args.what == "fleet":
            for heartbeat in await fleet.discover():
                tell(heartbeat)
        elif args.what == "snapshot":
            job = await fleet.job(args.host, "snapshot.create", {}, tell)
            tell(job)
            return job["state"] == "succeeded"
        elif args.what == "seed":
            options = {"stop_mysql": args.stop_mysql, "compression": "none"}
            job = await fleet.seed(args.donor, args.recipient, options, tell)
            tell(job)
            return job["state"] == "succeeded"
        elif args.what == "events":
            async for event in fleet.events():
                if event["type"].startswith(f"orch.{args.kind}"):
                    tell(event)
    finally:
        await nc.close()
    return True


def main():
    parser = argparse.ArgumentParser(description="A client of the fleet, made from schemas/ alone")
    default = pathlib.Path(__file__).resolve().parents[2] / "schemas"
    parser.add_argument("--server", default=os.environ.get("ORCH_SERVER", "nats://127.0.0.1:4222"))
    parser.add_argument("--schemas", default=default)
    parser.add_argument("--sign-key")
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("fleet")
    what.add_parser("snapshot").add_argument("host")
    seed = what.add_parser("seed")
    seed.add_argument("donor")
    seed.add_argument("recipient")
    seed.add_argument("--stop-mysql", action="store_true")
    what.add_parser("events").add_argument("--kind", default="")
    sys.exit(0 if asyncio.run(run(parser.parse_args())) else 1)


if __name__ == "__main__":
    main()
