"""Ordinary programs under the auditor's eyes: whatever sockets they make and pass around among themselves, none is a finding."""

from __future__ import annotations

import pytest

from tests.stage import Service, Settings
from tests.stage.world import AGENT_V4, DATABASE_NAME, wait_for

pytestmark = pytest.mark.e2e

_DOCUMENT = "launchers: [root]\nplacement: {placement}\nidentity: {{kind: local, groups: [support]}}\ntrust_files: [/mnt/stage/company-ca.pem]\n"
_RULES = """\
version: 1
rules:
  - id: all
    what: {effects: [connect, session, transaction, cancel, read, export, lock, insert, update, delete]}
    then: allow
"""
# Each for longer than two looks.
_PROGRAMS = {
    "psql": f"psql -XAt 'host={DATABASE_NAME} user=crm_app dbname=crm' -c 'select count(*) from customers' -c 'select pg_sleep(1.5)' -c 'select 1'",
    "curl": f"python3 -m http.server -d /tmp --bind 127.0.0.1 8999 2>/dev/null & sleep 1; for i in 1 2 3; do curl -s -o /dev/null http://127.0.0.1:8999/;"
    f" sleep 0.6; done; curl -s -m 2 http://{AGENT_V4}:81/; kill %1; echo done",
    "git": "cd $(mktemp -d) && git init -q one && cd one && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x && cd .. &&"
    " git daemon --reuseaddr --listen=127.0.0.1 --port=9418 --export-all --base-path=. & sleep 1.2; git clone -q git://127.0.0.1/one two; sleep 1; kill %1; echo done",
    "node": "node -e 'const net=require(\"net\"),cp=require(\"child_process\"),dns=require(\"dns\");dns.lookup(\"localhost\",()=>{});"
    "const s=net.createServer(c=>setTimeout(()=>c.end(\"x\"),1500)).listen(\"/tmp/n.sock\",()=>{const c=net.connect(\"/tmp/n.sock\");c.on(\"data\",()=>{s.close();console.log(\"done\")})});"
    "const k=cp.fork(\"-e\",[\"process.on(\\\"message\\\",(m,h)=>{setTimeout(()=>process.exit(0),1200)})\"],{execArgv:[],stdio:[\"pipe\",\"pipe\",\"pipe\",\"ipc\"]});"
    "const t=net.createServer().listen(0,\"127.0.0.1\",()=>{k.send(\"h\",t);t.close()});'",
    "python": "python3 -c 'import asyncio,multiprocessing as m,time\nif __name__==\"__main__\":\n p=m.Manager();d=p.dict();d[1]=2;q=m.Queue();q.put(1);"
    "a,b=m.Pipe();asyncio.run(asyncio.sleep(1.5));print(\"done\")'",
}


@pytest.fixture(scope="module")
def settings() -> Settings:
    """One workload per placement, that may do what it wants."""
    workloads = {f"{name}.yaml": _DOCUMENT.format(placement=name) for name in ("isolated", "shared")}
    return Settings(policies={"all.yaml": _RULES}, workloads=workloads)


@pytest.mark.parametrize("program", list(_PROGRAMS))
@pytest.mark.parametrize("workload", ["isolated", "shared"])
def test_an_ordinary_program_runs_to_its_end(service: Service, workload: str, program: str) -> None:
    done = service.launch("bash", "-c", _PROGRAMS[program], workload=workload)
    assert (done.returncode, done.stdout != "", "auditor" in done.stderr) == (0, True, False), (done.stdout, done.stderr)


def test_the_auditor_had_nothing_to_say_about_any_of_them(service: Service) -> None:
    wait_for(lambda: len(service.sql("from processes where ended is not null")) >= 2 * len(_PROGRAMS), "the record", 20)
    assert service.sql("select * from audits where action = 'killed'") == []
