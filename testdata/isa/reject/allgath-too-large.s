; Two parts of 128 elements leave the memory.
; expect: structure: entry 0 `main`: instruction 0 (`allgath`): the destination leaves its memory
object "allgath-too-large" target "mtia-300" hbm 1024 sram 0

entry e0 "main" {
  ranks 2
  input "x" f32 (8) hbm:0
  output "y" f32 (8) hbm:512
  transfer x0 hbm:0 hbm:512 f32 x 128 replace peer 0
  code:
    allgath x0
    halt
}

weights 0 {
}
