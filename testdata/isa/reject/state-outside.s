; Part of it lies behind the end of HBM.
; expect: structure: state 0 `cache`: it does not lie in HBM
object "state-outside" target "mtia-300" hbm 1024 sram 0

state "cache" f32 (8) hbm:1000

entry e0 "main" {
  code:
    halt
}

weights 0 {
}
