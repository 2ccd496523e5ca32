; Nothing comes before it that its PEs could go on from.
; expect: structure: entry 0 `main`: instruction 0: `chain` behind no launch
object "chain-first" target "mtia-300" hbm 1024 sram 0

kernel k0 "nothing" grid 1x1x1x1 {
  code:
    halt
}

entry e0 "main" {
  launch #0 k0 ()
  code:
    chain #0
    halt
}

weights 0 {
}
