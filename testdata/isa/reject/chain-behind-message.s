; Message engines do not hand PEs on.
; expect: structure: entry 0 `main`: instruction 2: `chain` behind no launch
object "chain-behind-message" target "mtia-300" hbm 1024 sram 0

kernel k0 "nothing" grid 1x1x1x1 {
  code:
    halt
}

entry e0 "main" {
  ranks 2
  input "x" f32 (8) hbm:0
  output "y" f32 (8) hbm:512
  launch #0 k0 ()
  transfer x0 hbm:0 hbm:512 f32 x 8 add peer 0
  code:
    launch #0
    allred x0
    chain #0
    halt
}

weights 0 {
}
