"""AgentCompress, the pure part: what to distill and when, notes and their check against the originals, background jobs.

Nothing here knows LangGraph's graphs or an endpoint; `nodes.seeker.compaction` and `middleware` put it to work. Paper: section on
AgentCompress, Algorithm 2.
"""
